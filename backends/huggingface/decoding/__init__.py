"""The decode step of the batched scheduler: fixed shapes for CUDA graphs, and sampling."""
