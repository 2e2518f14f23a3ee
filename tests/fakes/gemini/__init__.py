"""Services that speak Gemini's API, each with one odd behaviour."""
