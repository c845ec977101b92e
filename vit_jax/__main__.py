"""`python -m vit_jax`: like the command `vit_jax`, nothing is imported from the current directory."""

import os
import sys

# The current directory may be a folder that somebody sent.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from vit_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
