"""What a chat is: history, Modelfile, prompt, streamed chunks, the sentence catalog. No I/O."""
