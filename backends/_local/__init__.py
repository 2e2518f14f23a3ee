"""What backends share that run a model in this process: engine, scheduling, prompt encoding."""
