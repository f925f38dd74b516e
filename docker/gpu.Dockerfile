# For hosts with NVIDIA GPUs. Build it from the root of the repository:
#   docker build --file docker/gpu.Dockerfile --tag lpg-gpu .
# CUDA comes with the packages; the host has NVIDIA's driver, 525 or newer, and
# NVIDIA's container toolkit.
FROM python:3.10.16-slim-bookworm

RUN useradd --create-home --home-dir /lpg --uid 1000 lpg
WORKDIR /lpg

# What `jax[cuda12]==0.4.38` installs, with NVIDIA's libraries pinned.
COPY requirements.txt .
RUN python -m pip install --no-cache-dir --requirement requirements.txt \
        jax-cuda12-pjrt==0.4.38 jax-cuda12-plugin==0.4.38 \
        nvidia-cublas-cu12==12.9.3.13 nvidia-cuda-cupti-cu12==12.9.79 \
        nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-nvrtc-cu12==12.9.86 \
        nvidia-cuda-runtime-cu12==12.9.79 nvidia-cudnn-cu12==9.28.0.42 \
        nvidia-cufft-cu12==11.4.1.4 nvidia-cusolver-cu12==11.7.5.82 \
        nvidia-cusparse-cu12==12.5.10.65 nvidia-nccl-cu12==2.32.3 \
        nvidia-nvjitlink-cu12==12.9.86 \
    && python -m pip check

COPY envs envs
COPY launch launch
COPY lpg_distributed lpg_distributed
RUN mkdir runs && chown lpg runs

USER 1000
# Without a GPU it shall fail, and not be slow: with `cuda,cpu` JAX takes the CPU
# and says nothing. And no process takes all of a GPU's memory.
ENV PYTHONUNBUFFERED=1 JAX_PLATFORMS=cuda \
    XLA_PYTHON_CLIENT_PREALLOCATE=false
VOLUME ["/lpg/runs"]

# Healthy: the bandit server answers, or a checkpoint can be read.
HEALTHCHECK --interval=2m --timeout=1m --start-period=5m \
    CMD ["python", "-m", "lpg_distributed", "bandit", "--run_dir=runs/run", "--json"]
# One process has all devices: the learner's, which advances all shards.
ENTRYPOINT ["python", "-m", "lpg_distributed", "meta-train", "--run_dir=runs/run", "--num_workers=0", "--set=run.learner_speed=1"]
CMD ["--preset=laptop"]
