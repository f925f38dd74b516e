"""The page to cite from agrees with CITATION.cff and with the package."""

import pathlib
import re

import yaml

import lpg_distributed

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _entry(kind):
  page = (_ROOT / 'docs' / 'citing.md').read_text(encoding='utf-8')
  entry = re.search(rf'@{kind}{{(.*?)\n}}', page, re.DOTALL)[1]
  fields = re.findall(r'(\w+) += \{(.*?)\},?(?=\n  \w|$)', entry, re.DOTALL)
  return {name: ' '.join(value.split()) for name, value in fields}


def _citation():
  return yaml.safe_load((_ROOT / 'CITATION.cff').read_text(encoding='utf-8'))


def test_the_paper_is_the_one_of_the_citation_file():
  (paper,), entry = _citation()['references'], _entry('inproceedings')
  assert entry['title'] == paper['title']
  assert entry['booktitle'] == paper['collection-title']
  assert (entry['volume'], entry['year']) == (str(paper['volume']),
                                              str(paper['year']))
  assert entry['author'] == ' and '.join(
      f'{a["family-names"]}, {a["given-names"]}' for a in paper['authors'])


def test_the_software_is_the_one_of_the_citation_file():
  software, entry = _citation(), _entry('software')
  assert entry['title'] == software['title']
  assert entry['license'] == software['license']
  assert entry['author'] == f'{{{software["authors"][0]["name"]}}}'
  assert entry['version'] == str(software['version'])
  assert entry['version'] == lpg_distributed.__version__


def test_an_unreleased_version_has_no_date():
  """And tools that read the file name the software, not the paper alone."""
  software = _citation()
  changes = (_ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
  heading = re.search(rf'^## {software["version"]} \((.*)\)$', changes,
                      re.MULTILINE)[1]
  if heading == 'unreleased':
    assert 'date-released' not in software
  else:
    assert str(software['date-released']) == heading
  assert 'preferred-citation' not in software
