"""The progress of a run: its contents, and its display."""

import io

import pytest

from lpg_distributed.launch import progress

ENVIRONMENTS = ('chain_short', 'tabular_dense', 'random_small')
OPTIMA = {'chain_short': 1., 'tabular_dense': None}


def make_status(step=0, row=None, **changes):
  return {'meta_step': step, 'row': row or {}, 'frozen': False,
          'counters': {'env_steps': 12_300_000, 'resets': 4, 'stale': 0,
                       'duplicates': 0},
          'shards_arrived': 2, 'shards': 5, 'worker_ages_s': {},
          'checkpoint_failure': '', **changes}


def make_row(**values):
  return {'env_steps_per_s': 12345.6, 'gradient_norm': 0.0123, **values}


class _Clock:
  """Replaces `time.monotonic`."""

  def __init__(self, monkeypatch):
    self.now = 1000.
    monkeypatch.setattr(progress.time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return _Clock(monkeypatch)


@pytest.fixture
def estimator():
  return progress.Estimator(100, ENVIRONMENTS, OPTIMA)


def test_the_view_while_compiling(estimator):
  view = estimator.view(make_status(worker_ages_s={'0': 3.2, '1': 8.4}))
  assert view.headline == (
      'meta-step 0/100, compiling, 2/5 shards in, slowest worker 1: 8 s')
  assert view.returns == [('chain_short', '-', '1'),
                          ('tabular_dense', '-', '-'),
                          ('random_small', '-', '-')]
  assert view.notes == []


def test_the_view_while_training(estimator):
  view = estimator.view(make_status(3, make_row(**{
      'return/chain_short': 0.98765, 'episode_return/tabular_dense': -12.3})))
  assert view.headline == ('meta-step 3/100, 12,346 env steps/s, 1.23e+07 '
                           'steps, gradient 0.012, resets 4')
  assert view.returns == [('chain_short', '0.988', '1'),
                          ('tabular_dense', '-12.3', '-'),
                          ('random_small', '-', '-')]


def test_returns_are_remembered_and_not_mixed(estimator):
  """The return of lifetimes is not replaced by that of episodes."""
  name = 'chain_short'

  def show(**values):
    row = make_row(**{f'{k}/{name}': v for k, v in values.items()})
    return estimator.view(make_status(3, row)).returns[0][1]

  assert show(episode_return=0.1) == '0.1'
  assert show() == '0.1'
  assert show(episode_return=None) == '0.1'
  assert show(episode_return=0.2, **{'return': 0.9}) == '0.9'
  assert show(episode_return=0.3) == '0.9'
  assert show(**{'return': 0.}) == '0'


def test_the_time_left_is_estimated_from_the_speed(estimator, clock):
  def headline(step):
    return estimator.view(make_status(step, make_row())).headline

  assert 'left' not in estimator.view(make_status()).headline
  clock.now += 500.  # The compilation does not count.
  assert 'left' not in headline(20)
  clock.now += 30.
  assert headline(30).endswith(', 3m30s left')  # 3 s for each of 70.
  clock.now += 3570.
  assert headline(50).endswith(', 1h40m left')  # 120 s for each of 50.
  assert headline(100).endswith(', 0m00s left')


def test_unusual_conditions_are_noted(estimator):
  status = make_status(3, make_row(), frozen=True,
                       checkpoint_failure='no space')
  status['counters'].update(stale=7, duplicates=1)
  view = estimator.view(status, {
      'game': 'pong', 'frames': 12000, 'frames_per_s': 1234.5, 'return': -20.5})
  assert view.headline.endswith(', finishing')
  assert view.notes == [
      'dropped: 7 stale, 1 double',
      'the newest checkpoint could not be written: no space',
      'pong: 12,000 frames, 1,234 frames/s, return -20.5']
  row = {'game': 'pong', 'frames': 0, 'frames_per_s': None, 'return': None}
  assert estimator.view(make_status(), row).notes == [
      'pong: 0 frames, 0 frames/s, return -']
  assert estimator.view(make_status(), {'error': 'no ROM'}).notes == []


def make_view(step, notes=()):
  return progress.View(f'meta-step {step}', [
      ('chain_short', '0.5', '1'), ('random_small', '-', '-')], list(notes))


def test_plain_lines_are_printed_at_intervals(clock):
  stream = io.StringIO()
  with progress.ProgressDisplay(stream) as display:
    display.show(make_view(0))
    assert stream.getvalue() == 'meta-step 0\n  returns: chain_short 0.5\n'
    clock.now += 9.9
    display.show(make_view(1))
    clock.now += 0.2
    display.show(make_view(2, ['a note']))
    clock.now += 60.
    display.show(make_view(2))  # No change.
  assert stream.getvalue().splitlines() == [
      'meta-step 0', '  returns: chain_short 0.5',
      'meta-step 2', '  returns: chain_short 0.5', '  a note']
  assert '\x1b' not in stream.getvalue()


def test_no_line_of_returns_without_returns():
  stream = io.StringIO()
  with progress.ProgressDisplay(stream) as display:
    display.show(progress.View('compiling', [('a', '-', '1')], []))
  assert stream.getvalue() == 'compiling\n'


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def test_a_terminal_shows_a_table(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '100')
  stream = _Terminal()
  with progress.ProgressDisplay(stream) as display:
    display.show(make_view(1))
    display.show(make_view(2, ['a note']))
  text = stream.getvalue()
  for part in ('meta-step 2', 'environment', 'return', 'optimal',
               'chain_short', '0.5', 'random_small', 'a note', '\x1b['):
    assert part in text


def test_the_terminals_cursor_is_restored_after_an_error(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  stream = _Terminal()
  with pytest.raises(RuntimeError), progress.ProgressDisplay(stream) as display:
    display.show(make_view(1))
    raise RuntimeError
  assert stream.getvalue().rstrip().endswith('\x1b[?25h')  # Cursor is shown.
