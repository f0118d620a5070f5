# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a config: all of it, before anything is compiled.

  rules     what a problem is; rules of single values
  ranges    a table of fields and their rules
  fits      numbers that have to fit each other
  networks  the networks that a stage reads
  sources   its data, and where it writes

Reading a config costs nothing and changes nothing; of networks that are there
only the descriptions are read. What can be known only from weights, rows or
devices is checked again where they are read.
"""

from collections.abc import Callable, Sequence

from rlhf.problems import fits, networks, ranges, rules, sources
from rlhf.problems.rules import Config, Problem

__all__ = ['ConfigError', 'Problem', 'check', 'find', 'report']


class ConfigError(ValueError):
  """A config can't be run; a message fit to be printed alone.

  Attributes:
    problems: all of them.
  """

  def __init__(self, problems: Sequence[Problem], name: str = 'the config'):
    super().__init__(report(problems, name))
    self.problems = tuple(problems)


def report(problems: Sequence[Problem], name: str) -> str:
  """'2 problems with NAME:', and a line for each."""
  count = f'{len(problems)} problem{"s" if len(problems) > 1 else ""}'
  return '\n  '.join([f'{count} with {name}:', *map(str, problems)])


def find(config: Config, *, devices: int | None = None) -> list[Problem]:
  """All that is wrong with a stage's config.

  Args:
    config: of one stage; read and left as it is.
    devices: how many there are; None leaves the mesh's size unasked.

  Returns:
    The problems, one for a field and what is wrong with it; [] if it is good.
  """
  found = [
      problem
      for topic in (ranges, fits, networks, sources)
      for problem in topic.find(config)
  ]
  if devices is not None:
    found += _devices(config, devices)
  return list({str(problem): problem for problem in found}.values())


def check(
    config: Config,
    *,
    earlier: Sequence[Config] = (),
    devices: Callable[[], int] | None = None,
    missing: Sequence[Problem] = (),
    name: str = '',
) -> None:
  """Raises unless a config, and those of stages to be run first, are good.

  What takes seconds is done last, and only if all else is well: reading the
  vocabulary, and asking for the devices, which starts them.

  Args:
    config: of the stage.
    earlier: configs of the stages that will be run before it. What they share
      with it is told once.
    devices: says how many there are, such as `jax.device_count`.
    missing: what is known to be wrong already: stages that are not there.
    name: of the config, for the message; by default its `run`.

  Raises:
    ConfigError: with all problems.
  """
  found = {str(problem): problem for problem in find(config)}
  for one in earlier:
    run = str(rules.get(one, 'run'))
    for problem in find(one):
      if str(problem) not in found:
        marked = Problem(problem.key, problem.value, problem.message, run)
        found[str(marked)] = marked
  problems = [*found.values(), *missing]
  if not problems:
    problems = list(networks.vocabulary(config))
  if not problems and devices is not None:
    problems = list(_devices(config, devices()))
  if problems:
    raise ConfigError(problems, name or str(rules.get(config, 'run')))


def _devices(config: Config, devices: int) -> Sequence[Problem]:
  """Whether the mesh is made up of the devices that there are."""
  sizes = [v for v in rules.section(config, 'mesh').values() if v != -1]
  if not all(rules.is_integer(size) and size >= 1 for size in sizes):
    return []  # `ranges` says so.
  product = 1
  for size in sizes:
    product *= size
  left = len(sizes) < len(rules.section(config, 'mesh'))
  found = []
  if product != devices and not (left and devices % product == 0):
    found.append(
        Problem(
            'mesh',
            rules.get(config, 'mesh'),
            f'does not divide {devices} devices: give axes whose product is'
            f' {devices}, one of them -1 for what is left',
        )
    )
  tensor = rules.count(config, 'ppo.rollout_tensor')
  if tensor is not None:
    of = f'{devices} devices'
    found += fits.divides('ppo.rollout_tensor', tensor, devices, of)
  return found
