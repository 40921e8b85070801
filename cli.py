"""``python cli.py fuse ...`` from a checkout that is not installed."""

import reparam
from reparam.__main__ import main

if __name__ == "__main__":
    # An installation maps models/ to reparam.models; from a checkout it is the folder beside.
    reparam.__path__.append(__file__.rpartition("/")[0] or ".")
    main()
