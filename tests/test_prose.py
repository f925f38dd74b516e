"""Documents for strangers: their length, and the length of their sentences."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MOST_WORDS = 35  # of one sentence
_PLAIN = (
    'README.md', 'BUILD.md', 'CHANGELOG.md', 'CONTRIBUTING.md',
    'docker/README.md', 'benchmarks/README.md',
    *sorted(str(path.relative_to(_ROOT)) for path in
            (*_ROOT.glob('docs/*.md'), *_ROOT.glob('docs/results/*.md'))))


def _prose(text):
  """Paragraphs and list items, without code, tables, headings and images."""
  text = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
  lines = [line for line in text.splitlines()
           if not line.lstrip().startswith(('|', '#', '!'))]
  text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', '\n'.join(lines))
  text = re.sub(r'^\s*[-*] ', '\n', text, flags=re.MULTILINE)
  return re.split(r'\n\s*\n', text)


def sentences(path):
  yield from sentences_of(path.read_text(encoding='utf-8'))


def sentences_of(text):
  for paragraph in _prose(text):
    yield from (' '.join(s.split()) for s in
                re.split(r'(?<=[.!?:;])\s+', paragraph) if s.strip())


def test_sentences_are_found(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('# No\n\nOne two. Three\nfour!\n\n- five\n- [six](x)\n'
                  '\n| no |\n\n```\nno\n```\n')
  assert list(sentences(page)) == ['One two.', 'Three four!', 'five', 'six']


@pytest.mark.parametrize('name', _PLAIN)
def test_sentences_are_short(name):
  for sentence in sentences(_ROOT / name):
    assert len(sentence.split()) <= _MOST_WORDS, sentence


def test_the_readme_is_short():
  text = (_ROOT / 'README.md').read_text(encoding='utf-8')
  assert len(text.split()) <= 900


def test_the_summary_of_results_is_one_page():
  text = (_ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')
  assert len(text.split()) <= 1000
  assert text.count('![') <= 6


# Keys of docs/results/README.md for the appendices' tables and commands.
_RUN = re.compile(r'\b(p800|m32|m10|n1|w32b?|x15b?|u12b?|u15c?)\b')


def test_run_names_are_found():
  assert _RUN.search('as in `u15c`.') and not _RUN.search('all_kinds_pi')


# Of the published rules, prose names the main one only, as what one types.
_RULE = re.compile(r'(?<!`)\ball_kinds_pi\b|\ball_kinds(_256\w*)?\b'
                   r'|\bseed_[12]\b|\btwelve_kinds\w*|\bchain_and_grid\b|\btables_and_chains')


@pytest.mark.parametrize('name', [
    name for name in _PLAIN if not name.startswith('docs/results/')])
def test_prose_is_without_names_of_runs(name):
  for sentence in sentences(_ROOT / name):
    assert not _RUN.search(sentence), sentence
    assert not _RULE.search(sentence), sentence
