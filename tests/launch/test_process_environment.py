"""What nodes find in their environment."""

from lpg_distributed.launch import process_environment


def test_who_asks_for_an_accelerator_does_not_mean_the_services(monkeypatch):
  """A TPU belongs to one process, and images ask for it for all."""
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu,cpu')
  chosen = process_environment.with_packages(process_environment.SERVICE)
  assert chosen['JAX_PLATFORMS'] == 'cpu'
  # The others inherit it, since nothing is said of it.
  assert 'JAX_PLATFORMS' not in process_environment.with_packages(
      process_environment.WORKER)


def test_what_else_a_user_has_set_stays(monkeypatch):
  monkeypatch.setenv('NPROC', '7')
  for variables in (process_environment.SERVICE, process_environment.WORKER):
    assert process_environment.with_packages(variables)['NPROC'] == '7'
