"""What backends share that call a hosted model: executor base, errors, retries, API keys."""
