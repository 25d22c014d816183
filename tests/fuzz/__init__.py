"""Bytes that nobody would send, for everything that reads bytes from outside."""
