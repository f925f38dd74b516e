"""The notebooks run on the current Python, and show small figures."""

import pathlib

import pytest

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NOTEBOOKS = sorted((_ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
_MOST_SECONDS = 60  # of the processor, for a notebook with its kernel
_MOST_BYTES = 200 << 10  # of a figure, as it is stored
_MOST_LINES = 40  # of a cell
_LAST = '''import resource
print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))'''

each = pytest.mark.parametrize('path', _NOTEBOOKS, ids=lambda path: path.stem)


def _read(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def _outputs(notebook, kind):
  return [output.data[kind] for cell in notebook.cells
          for output in cell.get('outputs', ())
          if kind in output.get('data', {})]


def test_notebooks_are_found():
  assert [path.stem for path in _NOTEBOOKS] == [
      'use_a_rule', 'what_it_discovered']


@each
def test_stored_figures_are_small(path):
  notebook = _read(path)
  figures = _outputs(notebook, 'image/png')
  assert len(figures) >= 2
  assert all(len(figure) < _MOST_BYTES for figure in figures)
  for cell in notebook.cells:
    assert len(cell.source.splitlines()) <= _MOST_LINES
    for output in cell.get('outputs', ()):
      assert output.output_type != 'error'
      assert 'Warning' not in output.get('text', '')


@each
def test_text_is_short(path):
  """Sentences have at most 35 words, as those of the documents."""
  from tests import test_prose
  for cell in _read(path).cells:
    if cell.cell_type == 'markdown':
      assert len(cell.source.split()) < 90
      for sentence in test_prose.sentences_of(cell.source):
        assert len(sentence.split()) <= 35, sentence


@pytest.mark.long
@each
def test_notebooks_run(path, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(_ROOT))
  monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(tmp_path / 'runtime'))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  notebook = _read(path)
  for cell in notebook.cells:
    cell.pop('outputs', None)
    if cell.cell_type == 'code':
      cell.outputs = []
  notebook.cells.append(nbformat.v4.new_code_cell(_LAST))
  nbclient.NotebookClient(notebook, timeout=600, resources={
      'metadata': {'path': str(tmp_path)}}).execute()
  assert len(_outputs(notebook, 'image/png')) == len(
      _outputs(_read(path), 'image/png'))
  assert float(notebook.cells[-1].outputs[0].text) < _MOST_SECONDS
