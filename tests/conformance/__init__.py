"""Autobahn's cases against the real broker, also behind a kernel that is as unkind as it may be."""
