"""Malformed inputs: refused in a line, without a crash, a hang or a write.

LPG_FUZZ_EXAMPLES sets how many inputs each test makes:

  LPG_FUZZ_EXAMPLES=20000 python -m pytest tests/fuzz -q
"""

import io
import json
import os
import pathlib
import tempfile

from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import presets
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import bandit_facade
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import http_requests
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from tests import directory_testing

fuzz = settings(
    max_examples=int(os.environ.get('LPG_FUZZ_EXAMPLES', '100')),
    deadline=None, derandomize='LPG_FUZZ_EXAMPLES' not in os.environ,
    database=None, suppress_health_check=list(HealthCheck))

SCALARS = (st.none() | st.booleans() | st.integers() | st.floats()
           | st.text(max_size=20))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=12), inner, max_size=4),
                    max_leaves=12)
DEMO = presets.demo()
FIELDS = sorted(config_io._flat(config_io.to_dict(DEMO)))
NAMES = [name for name, _ in FIELDS]


def mangled(data: bytes):
  """Strategies for what remains of `data` after damage."""
  def damage(draws):
    result = bytearray(data)
    for kind, place, byte in draws:
      place %= len(result) + 1
      if kind == 'set' and place < len(result):
        result[place] = byte
      elif kind == 'cut':
        del result[place:]
      elif kind == 'insert':
        result[place:place] = bytes([byte]) * (1 + byte % 7)
      elif kind == 'remove':
        del result[place:place + 1 + byte % 7]
    return bytes(result)

  return st.lists(st.tuples(
      st.sampled_from(('set', 'set', 'insert', 'remove', 'cut')),
      st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1,
                  max_size=6).map(damage) | st.binary(max_size=300)


def assert_one_line(error):
  assert str(error) and '\n' not in str(error)


# Configurations.


@fuzz
@given(st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=20),
                          SCALARS.map(str) | st.text(max_size=30)),
                max_size=3))
def test_overrides(pairs):
  try:
    config = config_io.apply_overrides(
        DEMO, [f'{name}={value}' for name, value in pairs])
  except config_lib.ConfigError as error:
    assert_one_line(error)
  else:  # What is taken can be written down and read again.
    assert config_io.from_dict(config_io.to_dict(config)) == config


@fuzz
@given(st.dictionaries(st.sampled_from(
    ('environments', 'shares', 'agents', 'rule', 'meta', 'run', 'x')), JSON))
def test_groups_of_fields(changes):
  try:
    config_io.merge(DEMO, changes)
  except config_lib.ConfigError as error:
    assert_one_line(error)


# Files.


RULE = config_lib.RuleConfig(num_predictions=3, embedding_size=2, lstm_size=2)


def _eta_bytes():
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'eta.npz')
    eta_file.save(path, np.zeros(rule_vector.size(RULE)), RULE)
    return pathlib.Path(path).read_bytes()


ETA = _eta_bytes()


@fuzz
@given(mangled(ETA))
def test_rules(data):
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'eta.npz'
    path.write_bytes(data)
    try:
      assert np.all(np.isfinite(eta_file.load(str(path)).eta))
    except eta_file.EtaFileError as error:
      assert_one_line(error)
    assert directory_testing.contents(directory) == {
        directory: None, str(path): data}


TREE = {'a': np.arange(4, dtype=np.float32), 'b': {'c': np.int64(3)}}


@fuzz
@given(mangled(checkpointing.save_tree(TREE)))
def test_parts(data):
  try:
    tree = checkpointing.load_tree(data, TREE)
  except checkpointing.CheckpointError as error:
    assert str(error)
  else:
    assert tree['a'].shape == (4,) and tree['b']['c'].dtype == np.int64


@fuzz
@given(JSON | st.fixed_dictionaries({
    'format': st.sampled_from((2, 2, 2, 1, '2')),
    'meta_step': st.just(3) | SCALARS, 'parts': st.lists(
        st.fixed_dictionaries({
            'name': st.sampled_from(('learner', '../learner', '/etc/passwd',
                                     'manifest.json', 'shard_00001')) | SCALARS,
            'sha256': st.just('0' * 64) | SCALARS,
            'size': st.integers(-3, 9) | SCALARS}) | JSON, max_size=3)}))
def test_manifests(manifest):
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'checkpoints' / 'step_00000003'
    path.mkdir(parents=True)
    (path / 'manifest.json').write_text(json.dumps(manifest))
    (pathlib.Path(directory) / 'checkpoints' / 'learner').write_text('secret')
    before = directory_testing.contents(directory)
    try:
      checkpoint = checkpointing.latest(directory)
    except checkpointing.CheckpointError as error:
      assert str(error) and 'secret' not in str(error)
    else:
      assert checkpoint.parts == ()  # The only ones that can be whole.
    assert directory_testing.contents(directory) == before


# Messages and requests.


CONFIG = config_lib.Config(environments=('chain_short',))


def check_distribution(server):
  found = server.get_log_probabilities('chain_short')['log_probabilities']
  assert len(found) == 9
  np.testing.assert_allclose(np.exp(found).sum(), 1., rtol=1e-12)


@fuzz
@given(st.integers(-3, 3) | SCALARS, st.lists(
    JSON | st.tuples(st.just(0), st.just(0), st.just(0),
                     st.just('chain_short'), st.integers(-2, 10) | SCALARS,
                     st.floats() | SCALARS), max_size=3))
def test_reports_to_the_bandit(meta_step, reports):
  server = bandit_server.BanditServer(CONFIG)
  before = server.get_state()
  try:
    server.end_step(meta_step, reports)
  except (ValueError, TypeError):
    assert server.get_state() == before
  check_distribution(server)


@fuzz
@given(JSON)
def test_states_of_the_bandit(state):
  server = bandit_server.BanditServer(CONFIG)
  try:
    server.restore(3, state)
  except (ValueError, TypeError, KeyError, AttributeError, OverflowError,
          IndexError):
    assert server.get_epoch() == 0
  check_distribution(server)


HEADS = [b'GET /v1/health HTTP/1.1\r\nHost: localhost\r\nA: b',
         b'POST /v1/returns HTTP/1.1\r\nHost: localhost\r\n'
         b'Content-Type: application/json\r\nContent-Length: 10',
         b'GET /v1/sample?environment=chain_short&seed=3 HTTP/1.1\r\n'
         b'Host: localhost\r\nAuthorization: Bearer abc']


def facade():
  bandit = bandit_server.BanditServer(CONFIG)
  bandit.restore(1, None)
  made = bandit_facade.BanditFacade(bandit)
  made.refresh()
  return made, bandit


FACADE, BANDIT = facade()
STATE = BANDIT.get_state()


def parse(data, piece=http_requests.PIECE):
  """Requests and errors that a connection gives for these bytes."""
  parser = http_requests.RequestParser(None)
  for i in range(0, len(data), piece):
    parser.feed(data[i:i + piece])
  return list(parser.results)


@fuzz
@given(st.one_of(*map(mangled, HEADS)), st.binary(max_size=40),
       st.integers(1, 40))
def test_requests(head, body, piece):
  data = head + b'\r\n\r\n' + body
  results = parse(data)
  for result in results:
    try:
      if isinstance(result, http_requests.HttpError):
        raise result
      answer = FACADE.handle(result)
      assert isinstance(answer, bytes)
      assert answer.startswith(b'HTTP/1.1 200 ')
    except http_requests.HttpError as error:
      assert error.code in http_requests.REASONS
      assert_one_line(error)
      http_requests.encode_error(error)
  assert BANDIT.get_state() == STATE
  # How the network cuts the bytes does not change a request. Empty lines
  # before one are an error in some cuts only.
  whole = lambda rs: [r for r in rs if isinstance(r, http_requests.Request)]
  cut = whole(parse(data, piece))
  assert cut == whole(results)[:len(cut)]


@fuzz
@given(JSON.map(lambda x: json.dumps(x).encode()) | st.binary(max_size=99)
       | st.fixed_dictionaries({
           'id': st.text(max_size=70) | SCALARS,
           'environment': st.just('chain_short') | SCALARS,
           'arm': st.integers(-1, 10) | SCALARS,
           'return': st.floats() | SCALARS,
           'meta_step': st.integers(-1, 10) | SCALARS}).map(
               lambda x: json.dumps(x).encode()))
def test_bodies(body):
  try:
    report = bandit_facade.parse_report(body)
  except http_requests.HttpError as error:
    assert error.code == 400
    assert_one_line(error)
  else:
    assert np.isfinite(report['return']) and report['arm'] >= 0
    assert 0 < len(report['id']) <= 64 and report['meta_step'] >= 0


def test_the_inputs_are_malformed_and_not_only_so():
  """The tests above would pass if nothing were ever taken, or refused."""
  assert issubclass(eta_file.EtaFileError, errors.UserError)
  assert checkpointing.load_tree(checkpointing.save_tree(TREE), TREE)
  assert parse(HEADS[0] + b'\r\n\r\n')[0].path == '/v1/health'
  saved = np.load(io.BytesIO(ETA))
  assert saved['eta'].shape == (rule_vector.size(RULE),)
