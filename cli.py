"""``python cli.py fuse ...`` from a checkout that is not installed."""

import sys

import reparam

if __name__ == "__main__":
    # An installation maps models/ to reparam.models; from a checkout it is the folder beside.
    checkout = __file__.rpartition("/")[0] or "."
    reparam.__path__.append(checkout)
    # Found through its own path from here on; `models` is free for the user's own.
    del sys.path[0]

    from reparam.__main__ import main

    main()
