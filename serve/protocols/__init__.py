"""Protocols of other programs, so that their clients work with this server unchanged."""
