"""`python -m dinokit`: the command line."""

import sys

from dinokit.cli.app import main

sys.exit(main())
