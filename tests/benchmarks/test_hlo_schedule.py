"""Costs of TPU programs, read from their text and compared by hand."""

from benchmarks import hlo_schedule

PROGRAM = '''HloModule jit_advance, is_scheduled=true

%condition (arg: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element((s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) %arg), index=0
  ROOT %less = pred[]{:T(512)} compare(s32[]{:T(128)} %count, s32[]{:T(128)} %limit), direction=LT
}

%slices (p0: f32[20,8,128], p1: f32[8,128]) -> f32[8,128] {
  %p0 = f32[20,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %part = f32[8,128]{1,0:T(8,128)} dynamic-slice(f32[20,8,128]{2,1,0:T(8,128)} %p0), dynamic_slice_sizes={1,8,128}
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(f32[8,128]{1,0:T(8,128)} %part, f32[8,128]{1,0:T(8,128)} %p1)
}

%body (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element((s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) %arg), index=1
  %fast = f32[8,128]{1,0:T(8,128)S(1)} fusion(f32[20,8,128]{2,1,0:T(8,128)} %all, f32[8,128]{1,0:T(8,128)} %x), kind=kLoop, calls=%slices, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(s32[]{:T(128)} %count, f32[8,128]{1,0:T(8,128)} %x)
}

ENTRY %main (a: f32[3,5]) -> f32[8,128] {
  %a = f32[3,5]{1,0:T(8,128)} parameter(0)
  %turned = f32[3,5]{0,1:T(8,128)} copy(f32[3,5]{1,0:T(8,128)} %a), backend_config={"window_config":{"estimated_cycles":"11"}}
  %start = (f32[3,5]{1,0:T(8,128)S(1)}, f32[3,5]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(f32[3,5]{1,0:T(8,128)} %a)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while((s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) %init), condition=%condition, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element((s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) %loop), index=1
}
'''  # noqa: E501
TILE = 4 * 8 * 128


def test_a_program():
  """The loop's fusion reads a slice and x, and writes to fast memory."""
  cost = hlo_schedule.of_text(PROGRAM)
  assert cost.cycles == 11 + 7 * 100
  # The copy reads and writes a padded tile, the copy to VMEM reads one.
  assert cost.hbm_bytes == 2 * TILE + TILE + 7 * 2 * TILE


def test_padding_and_memory_spaces():
  assert hlo_schedule.hbm_bytes('f32[3,5]{1,0:T(8,128)}') == [TILE]
  assert hlo_schedule.hbm_bytes('f32[2,5,3]{1,2,0:T(8,128)}') == [2 * TILE]
  assert hlo_schedule.hbm_bytes('bf16[16,128]{1,0}') == [2 * 16 * 128]
  assert hlo_schedule.hbm_bytes('f32[3,5]{1,0:T(8,128)S(1)}') == [0]
  assert hlo_schedule.hbm_bytes('(s32[], f32[2]{0})') == [4, 8]


def test_a_conditional_counts_as_its_cheaper_branch():
  branch = ('%{0} (p: f32[8]) -> f32[8] {{\n  ROOT %f = f32[8]{{0}} fusion('
            'f32[8]{{0}} %p), calls=%none, backend_config={{'
            '"estimated_cycles":"{1}"}}\n}}\n\n')
  text = branch.format('dear', 9) + branch.format('cheap', 4) + (
      'ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %c = f32[8]{0} conditional('
      'pred[] %p, f32[8]{0} %x, f32[8]{0} %y), true_computation=%dear, '
      'false_computation=%cheap\n}\n')
  assert hlo_schedule.of_text(text).cycles == 4
