# SPDX-License-Identifier: Apache-2.0
"""`tfds build`, with this package's builders by name.

    python -m rlhf.data.builders rlhf_rankings --manual_dir=... --data_dir=...

takes all that `tfds build` takes, TFDS's own data sets included. It is here
because the command `tfds` also has parts that need Apache Beam, and does not
start without: TFDS requires no Beam, and Beam wants older packages than ours.
"""

from absl import app, logging
from tensorflow_datasets.scripts.cli import build, cli_utils

# Imported so that TFDS knows their names.
from rlhf.data.builders import (  # noqa: F401
    rlhf_demonstrations,
    rlhf_prompts,
    rlhf_rankings,
    rlhf_text,
)


def main(args: build.Args) -> None:
  logging.set_verbosity(logging.INFO)
  args.execute()


if __name__ == '__main__':
  app.run(
      main,
      flags_parser=cli_utils.make_flags_parser(build.Args, 'Builds data sets.'),
  )
