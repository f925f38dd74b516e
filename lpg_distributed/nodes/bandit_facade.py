"""The bandit for other programs: a fixed set of requests, as HTTP and JSON.

Answers come from a copy of the bandit's statistics, fetched every half second,
so that requests do not slow the run. Requests change nothing, unless the
operator allows reports of final returns.
"""

import asyncio
from concurrent import futures
import math
import random
import re
import threading
import time
from typing import Any, Callable, Mapping, Optional

from absl import logging

from lpg_distributed import files
from lpg_distributed.nodes import http_requests
from lpg_distributed.nodes import outside_reports
from lpg_distributed.nodes import rpc

_STALE_S = 10.  # age of the copy at which /v1/health reports an error
_WRITE_S = 10.  # for the bandit to take a report
_LOG_PERIOD_S = 60.  # between two warnings about reports
_ID = re.compile(r'[A-Za-z0-9._:-]{1,64}')
_LARGEST_RETURN = 1e9
_LARGEST_STEP = 1 << 53

_ARM = {'learning_rate': {'type': 'number'}, 'kl_cost': {'type': 'number'},
        'mean_return': {'type': 'number'},
        'lifetimes': {'type': 'integer', 'minimum': 0},
        'probability': {'type': 'number', 'minimum': 0, 'maximum': 1}}


def _object(**properties) -> dict[str, Any]:
  return {'type': 'object', 'properties': properties,
          'required': sorted(properties), 'additionalProperties': False}


_ENVIRONMENT = {'type': 'string'}
_STEP = {'type': 'integer', 'minimum': 0}
# JSON Schema of all requests and answers.
SCHEMA = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'requests': {
        'GET /v1/health': {'answer': _object(
            status={'enum': ['ok']}, meta_step=_STEP,
            age_s={'type': 'number'}, writable={'type': 'boolean'})},
        'GET /v1/schema': {'answer': {'type': 'object'}},
        'GET /v1/statistics': {
            'parameters': {'environment': 'optional; default: all'},
            'answer': _object(
                meta_step=_STEP, environments={
                    'type': 'object', 'additionalProperties': {
                        'type': 'array', 'items': _object(**_ARM)}})},
        'GET /v1/distribution': {
            'parameters': {'environment': 'required'},
            'answer': _object(
                meta_step=_STEP, environment=_ENVIRONMENT,
                arms={'type': 'array', 'items': _object(
                    **{name: _ARM[name] for name in (
                        'learning_rate', 'kl_cost', 'probability')})})},
        'GET /v1/sample': {
            'parameters': {'environment': 'required',
                           'seed': 'optional; a whole number'},
            'answer': _object(
                meta_step=_STEP, environment=_ENVIRONMENT,
                arm={'type': 'integer', 'minimum': 0},
                **{name: _ARM[name] for name in (
                    'learning_rate', 'kl_cost', 'probability')})},
        'POST /v1/returns': {
            'body': _object(
                id={'type': 'string', 'pattern': f'^{_ID.pattern}$'},
                environment=_ENVIRONMENT,
                arm={'type': 'integer', 'minimum': 0}, meta_step=_STEP,
                **{'return': {'type': 'number', 'minimum': -_LARGEST_RETURN,
                              'maximum': _LARGEST_RETURN}}),
            'answer': _object(accepted={'type': 'boolean'})},
    },
    'error': _object(error=_object(code={'type': 'integer'},
                                   message={'type': 'string'})),
}


class BanditFacade:
  """Answers requests; `SCHEMA` describes them."""

  def __init__(self, bandit: Any, writable: bool = False):
    """Makes a facade without statistics; `refresh` fetches them.

    Args:
      bandit: a `BanditServer`, or an `rpc.Client` of one.
      writable: whether reports of final returns are taken.
    """
    self._bandit = bandit
    self._writable = writable
    self._statistics: Optional[Mapping[str, Any]] = None
    self._fetched = -math.inf
    self._answers: dict[Any, bytes] = {}
    self._random = random.Random()
    self._writers = futures.ThreadPoolExecutor(4)
    self._warned_s = -math.inf
    self._routes: dict[str, tuple[str, tuple[str, ...], Callable]] = {
        '/v1/health': ('GET', (), self._health),
        '/v1/schema': ('GET', (), lambda query: SCHEMA),
        '/v1/statistics': ('GET', ('environment',), self._get_statistics),
        '/v1/distribution': ('GET', ('environment',), self._distribution),
        '/v1/sample': ('GET', ('environment', 'seed'), self._sample),
        '/v1/returns': ('POST', (), None),
    }

  def refresh(self) -> None:
    """Fetches the bandit's statistics; if that fails, the old copy stays.

    Raises:
      rpc.RpcError, rpc.Stopped: the bandit did not answer.
    """
    statistics = self._bandit.get_statistics()
    if not statistics.get('epoch', 1):
      return  # A restarted server that the learner has not restored yet.
    if self._statistics is None or statistics != self._statistics:
      self._statistics = statistics
      self._answers = {}
    self._fetched = time.monotonic()

  def refresh_until(self, stop: threading.Event, period_s: float) -> None:
    """Calls `refresh` every `period_s` seconds until `stop` is set."""
    while not stop.is_set():
      try:
        self.refresh()
      except (rpc.RpcError, rpc.Stopped) as error:
        logging.warning('the bandit does not answer: %s', error)
      stop.wait(period_s)

  def handle(self, request: http_requests.Request) -> http_requests.Answer:
    """Answers a request.

    Raises:
      HttpError: the request is not in `SCHEMA`, or there is no answer yet.
    """
    if request.path not in self._routes:
      raise http_requests.HttpError(
          404, f'there is no such path; allowed: {", ".join(self._routes)}')
    method, parameters, answer = self._routes[request.path]
    if request.method != method:
      raise http_requests.HttpError(405, f'allowed there: {method}')
    unknown = sorted(request.query.keys() - set(parameters))
    if unknown:
      raise http_requests.HttpError(
          400, 'there is an unknown parameter; allowed: '
          f'{", ".join(parameters) or "none"}')
    if method == 'POST':
      return self._report(request)
    if request.path in ('/v1/statistics', '/v1/distribution'):
      # Encoded once per refresh that changes them.
      key = request.path, request.query.get('environment')
      known = self._answers.get(key)
      if known is None:
        known = http_requests.encode(answer(request.query))
        self._answers[key] = known
      return known
    return http_requests.encode(answer(request.query))

  def _require(self) -> Mapping[str, Any]:
    if self._statistics is None:
      raise http_requests.HttpError(503, 'the bandit has not answered yet')
    return self._statistics

  def _arms(self, query) -> tuple[str, list[Mapping[str, Any]]]:
    environments = self._require()['environments']
    name = query.get('environment')
    if name not in environments:
      raise http_requests.HttpError(
          404 if name else 400,
          f'no such environment; allowed: {", ".join(environments)}')
    return name, environments[name]

  def _health(self, query) -> dict[str, Any]:
    del query
    age_s = time.monotonic() - self._fetched
    if age_s > _STALE_S:
      raise http_requests.HttpError(
          503, f'the bandit has not answered for {_STALE_S:.0f} s')
    return {'status': 'ok', 'meta_step': self._require()['meta_step'],
            'age_s': round(age_s, 3), 'writable': self._writable}

  def _get_statistics(self, query) -> dict[str, Any]:
    if 'environment' in query:
      name, arms = self._arms(query)
      environments = {name: arms}
    else:
      environments = self._require()['environments']
    return {'meta_step': self._require()['meta_step'],
            'environments': environments}

  def _distribution(self, query) -> dict[str, Any]:
    name, arms = self._arms(query)
    return {'meta_step': self._require()['meta_step'], 'environment': name,
            'arms': [{field: arm[field] for field in (
                'learning_rate', 'kl_cost', 'probability')} for arm in arms]}

  def _sample(self, query) -> dict[str, Any]:
    distribution = self._distribution(query)
    arms = distribution.pop('arms')
    generator = self._random
    if 'seed' in query:
      if not re.fullmatch(r'\d{1,18}', query['seed'], re.ASCII):
        raise http_requests.HttpError(400, 'seed: allowed: a whole number')
      generator = random.Random(int(query['seed']))
    arm = generator.choices(
        range(len(arms)), [arm['probability'] for arm in arms])[0]
    return {**distribution, 'arm': arm, **arms[arm]}

  def _report(self, request: http_requests.Request) -> http_requests.Answer:
    if not self._writable:
      raise http_requests.HttpError(
          403, 'this server is read-only; --bandit_writes allows reports')
    if request.content_type != 'application/json':
      raise http_requests.HttpError(415, 'allowed: application/json')
    report = parse_report(request.body)
    _, arms = self._arms(report)
    if report['arm'] >= len(arms):
      raise http_requests.HttpError(
          400, f'arm: allowed: 0 to {len(arms) - 1}')
    return self._write(report)

  async def _write(self, report: Mapping[str, Any]) -> bytes:
    call = self._writers.submit(
        self._bandit.report_outside, report['id'], report['environment'],
        report['arm'], report['return'], report['meta_step'])
    try:
      result = await asyncio.wait_for(asyncio.wrap_future(call), _WRITE_S)
    except (rpc.RpcError, rpc.Stopped, asyncio.TimeoutError) as error:
      if time.monotonic() - self._warned_s >= _LOG_PERIOD_S:
        self._warned_s = time.monotonic()
        logging.warning('the bandit did not take a report: %s', error)
      raise http_requests.HttpError(
          503, 'the bandit does not answer') from None
    if result in _REFUSALS:
      raise http_requests.HttpError(*_REFUSALS[result])
    return http_requests.encode(
        {'accepted': result == outside_reports.ACCEPTED})


_REFUSALS = {
    outside_reports.TOO_OLD: (
        409, 'meta_step: the bandit has forgotten which reports of that '
        'meta-step it has counted; sample again'),
    outside_reports.NOT_REACHED: (
        409, 'meta_step: the run is not at that meta-step yet'),
    outside_reports.TOO_MANY: (
        503, 'too many reports wait for the end of the meta-step')}


def parse_report(body: bytes) -> dict[str, Any]:
  """Parses and checks the body of `POST /v1/returns`.

  Returns:
    The report's fields, as in `SCHEMA`; `return` is a float.

  Raises:
    HttpError: the body does not match `SCHEMA`.
  """
  try:
    report = files.parse_json(body)
  except ValueError:
    raise http_requests.HttpError(400, 'the body is not JSON') from None
  fields = ('id', 'environment', 'arm', 'return', 'meta_step')
  if not isinstance(report, dict) or sorted(report) != sorted(fields):
    raise http_requests.HttpError(
        400, f'allowed: an object of {", ".join(fields)}')
  if not (isinstance(report['id'], str) and _ID.fullmatch(report['id'])):
    raise http_requests.HttpError(
        400, 'id: allowed: 1 to 64 letters, digits and . _ : -')
  if not isinstance(report['environment'], str):
    raise http_requests.HttpError(400, 'environment: allowed: a name')
  if type(report['arm']) is not int or not 0 <= report['arm'] < 1 << 31:
    raise http_requests.HttpError(400, 'arm: allowed: a whole number from 0')
  if type(report['meta_step']) is not int or not (
      0 <= report['meta_step'] < _LARGEST_STEP):
    raise http_requests.HttpError(
        400, 'meta_step: allowed: a whole number from 0')
  value = report['return']
  if type(value) not in (int, float) or not (
      -_LARGEST_RETURN <= value <= _LARGEST_RETURN):
    raise http_requests.HttpError(
        400, f'return: allowed: a number within {_LARGEST_RETURN:g} of 0')
  report['return'] = float(value)
  return report
