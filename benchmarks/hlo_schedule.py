"""Estimates time and memory traffic of a compiled TPU program from its text.

XLA's own cost analysis counts the body of a loop once. This module counts it
once per iteration. There are two results:

- cycles: the compiler's estimate for each fusion, which it writes into the
  program. Copies that run in parallel with arithmetic have no estimate.
- bytes: bytes read from and written to HBM, with the padding of tiles. Buffers
  in another memory space (`S(1)` is VMEM) do not count. Of a sliced buffer only
  the slice counts.

A conditional counts as its cheaper branch, since in most meta-steps no lifetime
starts.
"""

import re
from typing import Iterator, Mapping, NamedTuple, Sequence

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2,
          'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8,
          'f64': 8}
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
# Opcodes of instructions that move no data themselves.
_FREE = frozenset((
    'bitcast', 'tuple', 'get-tuple-element', 'parameter', 'constant', 'while',
    'conditional', 'after-all', 'partition-id', 'iota'))


class Instruction(NamedTuple):
  """One line of a computation."""
  name: str
  shape: str
  opcode: str
  operands: str  # the text between the parentheses
  attributes: str
  is_root: bool


class Cost(NamedTuple):
  """Costs of a program, or of a part of one."""
  cycles: float = 0.
  hbm_bytes: float = 0.

  def plus(self, other: 'Cost', times: float = 1.) -> 'Cost':
    return Cost(self.cycles + times * other.cycles,
                self.hbm_bytes + times * other.hbm_bytes)


_Computations = Mapping[str, Sequence[Instruction]]


def _end_of_parenthesis(text: str, start: int) -> int:
  """Returns the index after the end of the parenthesis opened at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[i], 0)
    if not depth:
      return i + 1
  raise ValueError(f'not closed: {text[start:start + 80]}')


def _parse_instruction(line: str) -> Instruction | None:
  found = re.match(r'\s*(ROOT )?%?([\w.-]+) = ', line)
  if not found:
    return None
  begin = found.end()
  end = (_end_of_parenthesis(line, begin) if line[begin] == '('
         else line.index(' ', begin))
  opcode = re.match(r'\s*([\w-]+)\(', line[end:])
  if not opcode:
    return None
  open_ = end + opcode.end() - 1
  close = _end_of_parenthesis(line, open_)
  return Instruction(found.group(2), line[begin:end], opcode.group(1),
                     line[open_ + 1:close - 1], line[close:],
                     bool(found.group(1)))


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Returns a module's computations by name, and the name of its entry."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = '', None
  for line in text.splitlines():
    head = re.match(r'(ENTRY )?%?([\w.-]+) \(.*\{$', line)
    if head:
      current = computations.setdefault(head.group(2), [])
      entry = head.group(2) if head.group(1) else entry
    elif current is not None:
      instruction = _parse_instruction(line)
      if instruction:
        current.append(instruction)
  return computations, entry


def _array_bytes(kind: str, dimensions: str, layout: str) -> int:
  """Returns the bytes of an array with padding of tiles; 0 outside of HBM."""
  if re.search(r'S\([1-9]', layout or '') or kind not in _BYTES:
    return 0
  sizes = [int(d) for d in dimensions.split(',') if d]
  order, _, tiling = (layout or '').partition(':')
  minor_first = [int(i) for i in order.split(',') if i]
  tile = re.match(r'T\(([\d,]+)\)', tiling)
  if tile and len(minor_first) == len(sizes):
    edges = [int(e) for e in tile.group(1).split(',')][::-1]
    for axis, edge in zip(minor_first, edges):
      sizes[axis] = -(-sizes[axis] // edge) * edge
  total = _BYTES[kind]
  for size in sizes:
    total *= size
  return total


def hbm_bytes(shape: str) -> list[int]:
  """Returns the bytes in HBM of each array in a shape or list of operands."""
  return [_array_bytes(*found) for found in _ARRAY.findall(shape)]


def _operand_names(operands: str) -> list[str]:
  return re.findall(r'%([\w.-]+)', operands)


def _named(attributes: str, key: str) -> list[str]:
  found = re.search(key + r'=\{?(%?[\w.-]+(?:, ?%[\w.-]+)*)\}?', attributes)
  return re.findall(r'%?([\w.-]+)', found.group(1)) if found else []


def _fusion_bytes(instruction: Instruction,
                  fused: Sequence[Instruction]) -> int:
  """Returns the traffic of a fusion; of sliced buffers only slices count."""
  reads = hbm_bytes(instruction.operands)
  write = sum(hbm_bytes(instruction.shape))
  parameters = {i.name: int(i.operands) for i in fused
                if i.opcode == 'parameter'}
  for name, number in parameters.items():
    users = [i for i in fused if name in _operand_names(i.operands)]
    if number >= len(reads) or not reads[number] or not users:
      continue
    if all(i.opcode in ('dynamic-slice', 'slice') for i in users):
      reads[number] = min(reads[number], sum(
          sum(_ignoring_space(i.shape)) for i in users))
    elif all(i.opcode == 'dynamic-update-slice'
             and _operand_names(i.operands)[0] == name for i in users):
      reads[number] = 0
      updates = [_operand_names(i.operands)[1] for i in users]
      write = min(write, sum(sum(_ignoring_space(i.shape)) for i in fused
                             if i.name in updates))
  return sum(reads) + write


def _ignoring_space(shape: str) -> list[int]:
  return hbm_bytes(re.sub(r'S\(\d+\)', '', shape))


def _instruction_cost(instruction: Instruction,
                      computations: _Computations) -> Cost:
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith('-done'):
    return Cost()
  cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
  reads, writes = map(hbm_bytes, (instruction.operands, instruction.shape))
  if opcode == 'fusion':
    fused = computations.get(_named(instruction.attributes, 'calls')[0], ())
    moved = _fusion_bytes(instruction, fused)
  elif opcode == 'copy-start':  # The first of the tuple is the target.
    moved = sum(reads) + writes[0]
  elif opcode in ('slice-start', 'dynamic-slice', 'slice', 'async-start'):
    part = _ignoring_space(instruction.shape)
    moved = (min(max(part[1:] or part), reads[0]) if reads and reads[0]
             else 0) + (writes[0] if opcode.endswith('slice') else 0)
  elif opcode == 'dynamic-update-slice':
    moved = 2 * reads[1] if len(reads) > 1 else 0
  else:
    moved = sum(reads) + sum(writes)
  return Cost(float(cycles.group(1)) if cycles else 0., float(moved))


def trip_count(condition: Sequence[Instruction]) -> int:
  """Returns the iterations of a loop from 0 to a constant; 1 for others."""
  constants = {i.name: i.operands for i in condition
               if i.opcode == 'constant'}
  for instruction in condition:
    if instruction.is_root:
      for name in _operand_names(instruction.operands):
        if constants.get(name, '').isdigit():
          return int(constants[name])
  whole = [int(x) for x in constants.values() if x.isdigit()]
  return whole[0] if len(whole) == 1 else 1


def _costs(name: str, computations: _Computations) -> Iterator[Cost]:
  for instruction in computations.get(name, ()):
    if instruction.opcode == 'while':
      (condition,) = _named(instruction.attributes, 'condition')
      (body,) = _named(instruction.attributes, 'body')
      yield Cost().plus(cost_of(body, computations),
                        trip_count(computations[condition]))
    elif instruction.opcode == 'conditional':
      branches = _named(instruction.attributes, 'branch_computations') or (
          _named(instruction.attributes, 'true_computation')
          + _named(instruction.attributes, 'false_computation'))
      yield min(cost_of(branch, computations) for branch in branches)
    elif instruction.opcode == 'call':
      yield cost_of(_named(instruction.attributes, 'to_apply')[0],
                    computations)
    else:
      yield _instruction_cost(instruction, computations)


def cost_of(name: str, computations: _Computations) -> Cost:
  """Returns the cost of a computation and of all that it calls."""
  total = Cost()
  for cost in _costs(name, computations):
    total = total.plus(cost)
  return total


def of_text(text: str) -> Cost:
  """Returns the cost of a whole program, `compiled.as_text()`."""
  computations, entry = parse(text)
  return cost_of(entry, computations)
