"""Services that speak OpenAI's API, each with one odd behaviour."""
