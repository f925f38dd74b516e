"""Commands whose output is not read give right results and exit codes."""

import os
import subprocess
import sys

import pytest

COMMAND = '''
import os, sys, time
from lpg_distributed.launch import command
from lpg_distributed.launch import progress

def main():
  with progress.ProgressDisplay() as display:
    for i in range(3):
      display._last_time = -60.
      display.show(progress.View(f'step {i}', [('x', '1', '2')], ['\\u00f6']))
      print('line', i, '\\u03b7', flush=True)
      time.sleep(0.1)
  with open(sys.argv[1], 'x') as f:
    f.write(f'done {f.fileno() > 2}')
  return 3

if __name__ == '__main__':
  command.run(main, None)
'''


def run(tmp_path, closed=(), **kwargs):
  def prepare():
    for descriptor in closed:
      os.close(descriptor)

  return subprocess.Popen(
      [sys.executable, '-c', COMMAND, str(tmp_path / 'result')],
      preexec_fn=prepare, **kwargs)


def assert_done(process, tmp_path):
  assert process.wait(30) == 3
  assert (tmp_path / 'result').read_text() == 'done True'


@pytest.mark.parametrize('closed', [(1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_end_a_command(tmp_path, closed):
  assert_done(run(tmp_path, closed, stdout=subprocess.DEVNULL,
                  stderr=subprocess.DEVNULL), tmp_path)


@pytest.mark.parametrize('ending', ['stdout', 'stderr'])
def test_a_pipe_that_ends_does_not_end_a_command(tmp_path, ending):
  """A reader such as `head -1` closes its end of the pipe early."""
  read, write = os.pipe()
  os.close(read)
  other = 'stderr' if ending == 'stdout' else 'stdout'
  process = run(tmp_path, **{ending: write, other: subprocess.PIPE})
  os.close(write)
  output = process.communicate(timeout=30)[ending == 'stdout'].decode()
  assert_done(process, tmp_path)
  assert 'Traceback' not in output and 'BrokenPipe' not in output
  assert 'step 2' in output or 'line 2' in output


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_characters_that_the_locale_lacks_are_escaped(tmp_path, encoding):
  process = run(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, 'PYTHONIOENCODING': encoding,
                     'PYTHONUTF8': '0'})
  out, err = process.communicate(timeout=30)
  assert_done(process, tmp_path)
  assert b'line 2 \\u03b7' in out and b'Traceback' not in err


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_under_the_output_is_an_error(tmp_path):
  """Other than with a reader that went away, results would be lost."""
  with open('/dev/full', 'wb') as full:
    process = run(tmp_path, stdout=full, stderr=subprocess.PIPE)
  err = process.communicate(timeout=30)[1].decode()
  assert process.returncode == 2
  assert 'error: [Errno 28] No space left on device' in err
  assert 'Traceback' not in err
