# SPDX-License-Identifier: Apache-2.0
"""TFDS builders: local files of rows become TensorFlow Datasets.

One for each kind of row: rlhf_text, rlhf_demonstrations, rlhf_rankings and
rlhf_prompts. From the command line:

    python -m rlhf.data.builders rlhf_rankings \\
        --manual_dir=FOLDER_OF_FILES --data_dir=PREPARED \\
        [--file_format=array_record] [--config='{"validation": 0.1, "test": 0}']

or, where the packages that TFDS's command line also needs are installed (Apache
Beam and mlcroissant; TFDS does not require them),

    tfds build rlhf/data/builders/rlhf_rankings.py --manual_dir=... ...

Then `tfds:rlhf_rankings` names the data set, read from PREPARED. `base` says
what the files may be, what stands in the data set, and what the options are.

Nothing is imported here: TFDS imports one builder by its path and wants to see
only that one.
"""
