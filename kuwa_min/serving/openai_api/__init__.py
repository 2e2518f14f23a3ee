"""OpenAI's protocol as other clients than Kuwa's speak it: requests, answers, errors, access.

No sockets and no slots here; `api_routes` has the routes.
"""
