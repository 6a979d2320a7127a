"""`python -m semseg_app.cli` is `semseg`."""

from semseg_app.cli.main import main

main()
