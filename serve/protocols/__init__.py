"""The languages of other programs, so that their clients work with this server as they are."""
