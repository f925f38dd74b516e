# For TPU hosts. Build it from the root of the repository:
#   docker build --file docker/tpu.Dockerfile --tag lpg-tpu .
FROM python:3.10.16-slim-bookworm

RUN useradd --create-home --home-dir /lpg --uid 1000 lpg
WORKDIR /lpg

# The library is named and not `jax[tpu]`, whose other half is an empty package
# that is not on PyPI.
COPY requirements.txt .
RUN python -m pip install --no-cache-dir --requirement requirements.txt \
        libtpu==0.0.7 \
    && python -m pip check

COPY envs envs
COPY launch launch
COPY lpg_distributed lpg_distributed
RUN mkdir runs && chown lpg runs

USER 1000
# Without a TPU it shall fail, and not be slow.
ENV PYTHONUNBUFFERED=1 JAX_PLATFORMS=tpu,cpu
VOLUME ["/lpg/runs"]

# Healthy: the bandit server answers, or a checkpoint can be read.
HEALTHCHECK --interval=2m --timeout=1m --start-period=5m \
    CMD ["python", "-m", "lpg_distributed", "bandit", "--run_dir=runs/run", "--json"]
# One process has the TPU: the learner's, which advances all shards.
ENTRYPOINT ["python", "-m", "lpg_distributed", "meta-train", "--run_dir=runs/run", "--num_workers=0", "--set=run.learner_speed=1"]
CMD ["--preset=laptop"]
