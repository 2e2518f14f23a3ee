"""What llama.cpp loads."""
