"""From a chat to the prompt of a model: what fits, its pictures, and its encoding as token ids."""
