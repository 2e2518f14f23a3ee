"""The tests of kuwa_min/serving.

test_status covers backend_status, too; test_routes generations/factory; ../test_executor service.
"""
