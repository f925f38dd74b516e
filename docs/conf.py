"""Builds the documentation: make docs."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import lpg_distributed  # noqa: E402
from lpg_distributed.launch import main  # noqa: E402

project = 'LPG, the Learned Policy Gradient'
author = 'The LPG maintainers'
release = version = lpg_distributed.__version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon',
              'sphinx.ext.viewcode']
myst_heading_anchors = 4
nb_execution_mode = 'off'  # Notebooks are shown as they are stored.
html_theme = 'furo'
html_title = f'LPG {version}'
exclude_patterns = ['jupyter_execute', 'requirements.txt']
# Fields of named tuples are described by the comments beside them.
autodoc_default_options = {'members': True, 'undoc-members': False}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_format = 'short'
nitpicky = False


def write_commands(app) -> None:
  """Writes the page of all commands from their own `--help`."""
  lines = ['# Commands', '',
           'Every command of `lpg`, as its own `--help` describes it.', '']
  for name in main.SUBCOMMANDS:
    done = subprocess.run(
        [sys.executable, '-m', 'lpg_distributed', name, '--help'], cwd=ROOT,
        text=True, capture_output=True, check=True, timeout=300)
    lines += [f'## lpg {name}', '', '```text', done.stdout.rstrip(), '```', '']
  page = pathlib.Path(app.srcdir) / '_generated' / 'commands.md'
  page.parent.mkdir(exist_ok=True)
  text = '\n'.join(lines)
  if not page.exists() or page.read_text(encoding='utf-8') != text:
    page.write_text(text, encoding='utf-8')


def setup(app) -> None:
  app.connect('builder-inited', write_commands)
