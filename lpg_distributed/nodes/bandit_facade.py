"""The bandit for outsiders: a fixed set of requests, as HTTP and JSON.

Answers come from a copy of the bandit's statistics that is fetched now and
then, so that whoever asks, and however often, the run does not notice. Reading
changes nothing; writing is off unless the operator allows it.
"""

import asyncio
from concurrent import futures
import json
import math
import random
import re
import threading
import time
from typing import Any, Callable, Mapping, Optional

from absl import logging

from lpg_distributed.nodes import http_server
from lpg_distributed.nodes import rpc

VERSION = 'v1'
_STALE_S = 10.  # after so long without news the facade says that it has none
_WRITE_S = 10.
_ID = re.compile(r'[A-Za-z0-9._:-]{1,64}')
_LARGEST_RETURN = 1e9

_ARM = {'alpha_lr': {'type': 'number'}, 'alpha_y': {'type': 'number'},
        'mean_return': {'type': 'number'},
        'lifetimes': {'type': 'integer', 'minimum': 0},
        'probability': {'type': 'number', 'minimum': 0, 'maximum': 1}}


def _object(**properties) -> dict[str, Any]:
  return {'type': 'object', 'properties': properties,
          'required': sorted(properties), 'additionalProperties': False}


_ENVIRONMENT = {'type': 'string'}
_STEP = {'type': 'integer', 'minimum': 0}
# What is served, as JSON Schema.
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
                        'alpha_lr', 'alpha_y', 'probability')})})},
        'GET /v1/sample': {
            'parameters': {'environment': 'required',
                           'seed': 'optional; a whole number'},
            'answer': _object(
                meta_step=_STEP, environment=_ENVIRONMENT,
                arm={'type': 'integer', 'minimum': 0},
                **{name: _ARM[name] for name in (
                    'alpha_lr', 'alpha_y', 'probability')})},
        'POST /v1/returns': {
            'body': _object(
                id={'type': 'string', 'pattern': f'^{_ID.pattern}$'},
                environment=_ENVIRONMENT,
                arm={'type': 'integer', 'minimum': 0},
                **{'return': {'type': 'number', 'minimum': -_LARGEST_RETURN,
                              'maximum': _LARGEST_RETURN}}),
            'answer': _object(accepted={'type': 'boolean'})},
    },
    'error': _object(error=_object(code={'type': 'integer'},
                                   message={'type': 'string'})),
}


class BanditFacade:
  """Turns requests into answers; see `SCHEMA`."""

  def __init__(self, bandit: Any, writable: bool = False):
    """`bandit`: a `BanditServer` or a client of one."""
    self._bandit = bandit
    self._writable = writable
    self._statistics: Optional[Mapping[str, Any]] = None
    self._fetched = -math.inf
    self._answers: dict[Any, bytes] = {}
    self._random = random.Random()
    self._writers = futures.ThreadPoolExecutor(4)
    self._routes: dict[str, tuple[str, tuple[str, ...], Callable]] = {
        '/v1/health': ('GET', (), self._health),
        '/v1/schema': ('GET', (), lambda query: SCHEMA),
        '/v1/statistics': ('GET', ('environment',), self._get_statistics),
        '/v1/distribution': ('GET', ('environment',), self._distribution),
        '/v1/sample': ('GET', ('environment', 'seed'), self._sample),
        '/v1/returns': ('POST', (), None),
    }

  def refresh(self) -> None:
    """Fetches what is served; what was there before stays if it fails."""
    statistics = self._bandit.get_statistics()
    if not statistics.get('epoch', 1):  # Started again, and knows nothing yet.
      return
    if self._statistics is None or statistics != self._statistics:
      self._statistics = statistics
      self._answers = {}
    self._fetched = time.monotonic()

  def refresh_until(self, stop: threading.Event, period_s: float) -> None:
    """`refresh`, again and again."""
    while not stop.is_set():
      try:
        self.refresh()
      except (rpc.RpcError, rpc.Stopped) as error:
        logging.warning('no news of the bandit: %s', error)
      stop.wait(period_s)

  def handle(self, request: http_server.Request,
             body: bytes) -> http_server.Answer:
    """Answers a request; see `http_server.Server`."""
    if request.path not in self._routes:
      raise http_server.HttpError(
          404, f'there is no such path; allowed: {", ".join(self._routes)}')
    method, parameters, answer = self._routes[request.path]
    if request.method != method:
      raise http_server.HttpError(405, f'allowed there: {method}')
    unknown = sorted(request.query.keys() - set(parameters))
    if unknown:
      raise http_server.HttpError(
          400, 'there is an unknown parameter; allowed: '
          f'{", ".join(parameters) or "none"}')
    if method == 'POST':
      return self._report(request, body)
    if request.path in ('/v1/statistics', '/v1/distribution'):
      # The same until there is news.
      key = request.path, request.query.get('environment')
      known = self._answers.get(key)
      if known is None:
        known = http_server.encode(answer(request.query))
        self._answers[key] = known
      return known
    return http_server.encode(answer(request.query))

  def _known(self) -> Mapping[str, Any]:
    if self._statistics is None:
      raise http_server.HttpError(503, 'the bandit has not answered yet')
    return self._statistics

  def _arms(self, query) -> tuple[str, list[Mapping[str, Any]]]:
    environments = self._known()['environments']
    name = query.get('environment')
    if name not in environments:
      raise http_server.HttpError(
          404 if name else 400,
          f'no such environment; allowed: {", ".join(environments)}')
    return name, environments[name]

  def _health(self, query) -> dict[str, Any]:
    del query
    age_s = time.monotonic() - self._fetched
    if age_s > _STALE_S:
      raise http_server.HttpError(
          503, f'the bandit has not answered for {_STALE_S:.0f} s')
    return {'status': 'ok', 'meta_step': self._known()['meta_step'],
            'age_s': round(age_s, 3), 'writable': self._writable}

  def _get_statistics(self, query) -> dict[str, Any]:
    if 'environment' in query:
      name, arms = self._arms(query)
      environments = {name: arms}
    else:
      environments = self._known()['environments']
    return {'meta_step': self._known()['meta_step'],
            'environments': environments}

  def _distribution(self, query) -> dict[str, Any]:
    name, arms = self._arms(query)
    return {'meta_step': self._known()['meta_step'], 'environment': name,
            'arms': [{field: arm[field] for field in (
                'alpha_lr', 'alpha_y', 'probability')} for arm in arms]}

  def _sample(self, query) -> dict[str, Any]:
    distribution = self._distribution(query)
    arms = distribution.pop('arms')
    generator = self._random
    if 'seed' in query:
      if not re.fullmatch(r'\d{1,18}', query['seed'], re.ASCII):
        raise http_server.HttpError(400, 'seed: allowed: a whole number')
      generator = random.Random(int(query['seed']))
    arm = generator.choices(
        range(len(arms)), [arm['probability'] for arm in arms])[0]
    return {**distribution, 'arm': arm, **arms[arm]}

  def _report(self, request, body: bytes) -> http_server.Answer:
    if not self._writable:
      raise http_server.HttpError(
          403, 'this server is read-only; --bandit_writes allows reports')
    if request.content_type != 'application/json':
      raise http_server.HttpError(415, 'allowed: application/json')
    report = parse_report(body)
    _, arms = self._arms(report)
    if report['arm'] >= len(arms):
      raise http_server.HttpError(
          400, f'arm: allowed: 0 to {len(arms) - 1}')
    return self._write(report)

  async def _write(self, report: Mapping[str, Any]) -> bytes:
    call = self._writers.submit(
        self._bandit.report_outside, report['id'], report['environment'],
        report['arm'], report['return'])
    try:
      accepted = await asyncio.wait_for(asyncio.wrap_future(call), _WRITE_S)
    except ValueError as error:  # Of a server in the same process.
      raise http_server.HttpError(503, str(error)) from None
    except (rpc.RpcError, rpc.Stopped, asyncio.TimeoutError) as error:
      logging.warning('a report was not taken: %s', error)
      raise http_server.HttpError(503, 'the bandit does not answer') from None
    return http_server.encode({'accepted': accepted})


def parse_report(body: bytes) -> dict[str, Any]:
  """A report of a final return, checked.

  Raises:
    HttpError: it is not what `SCHEMA` says.
  """
  try:
    report = json.loads(body)
  except (ValueError, RecursionError):
    raise http_server.HttpError(400, 'the body is no JSON') from None
  fields = ('id', 'environment', 'arm', 'return')
  if not isinstance(report, dict) or sorted(report) != sorted(fields):
    raise http_server.HttpError(
        400, f'allowed: an object of {", ".join(fields)}')
  if not (isinstance(report['id'], str) and _ID.fullmatch(report['id'])):
    raise http_server.HttpError(
        400, 'id: allowed: 1 to 64 letters, digits and . _ : -')
  if not isinstance(report['environment'], str):
    raise http_server.HttpError(400, 'environment: allowed: a name')
  if type(report['arm']) is not int or not 0 <= report['arm'] < 1 << 31:
    raise http_server.HttpError(400, 'arm: allowed: a whole number from 0')
  value = report['return']
  if type(value) not in (int, float) or not (
      -_LARGEST_RETURN <= value <= _LARGEST_RETURN):
    raise http_server.HttpError(
        400, f'return: allowed: a number within {_LARGEST_RETURN:g} of 0')
  report['return'] = float(value)
  return report
