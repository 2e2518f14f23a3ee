"""Load what llama.cpp computes with: the model's file, and what goes where."""
