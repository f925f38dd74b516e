"""Reads numbers that pages of the documentation state."""

import pathlib
import re

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def groups(page, pattern):
  """Groups of a pattern in the text of a page."""
  text = re.sub(r'\s+', ' ', (_ROOT / page).read_text(encoding='utf-8'))
  found = re.search(pattern, text)
  assert found, pattern
  return found.groups()
