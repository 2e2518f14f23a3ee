"""The tests of kuwa_min/httpd.

test_body_writer covers flush_thread, too; test_server connection, request_reader, messages, limits.
"""
