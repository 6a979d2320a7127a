"""Runs as web pages that need no network: report.html of one run, and one page for several."""
