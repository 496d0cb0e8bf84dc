# An image that trains, evaluates and predicts on NVIDIA GPUs:
#
#   docker build -t s4d .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" s4d s4d train --config mine.yaml
#
# Decoding processes hand frames on in shared memory, of which Docker gives 64 MB by default: --shm-size, or --ipc=host.
# Without a command it runs `s4d doctor`, which ends with status 1 where something needed is missing. More in
# docs/multi-node.md.

# Of the CUDA release that torch's wheels are built with. Its libraries come with those wheels; the host brings the driver.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS build

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/s4d

ENV PATH=/opt/s4d/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /src

# What changes seldom stands first: exact versions, torch before deepspeed, whose setup imports it.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cu130 torch numpy \
    && pip install --constraint constraints.txt setuptools wheel packaging py-cpuinfo scikit-build-core cmake ninja \
    && DS_BUILD_OPS=0 pip install --constraint constraints.txt --no-build-isolation deepspeed

COPY CMakeLists.txt LICENSE README.md pyproject.toml ./
COPY configs configs
COPY engine engine
COPY kernels kernels
COPY s4d s4d
RUN pip install --constraint constraints.txt --no-build-isolation \
        --config-settings=cmake.define.S4D_CUDA=OFF ".[gpu,dali-cu13,face]" \
    && pip check

FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# Triton compiles the launchers of its kernels on the machine that runs them: a C compiler and Python's headers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 s4d \
    && chmod 1777 /home/s4d

COPY --from=build /opt/s4d /opt/s4d

# video: the GPU's decoder, which DALI uses; Docker gives compute and utility alone. The name and the home folder also
# serve a user of the host, given with --user, whom the image does not know.
ENV PATH=/opt/s4d/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/home/s4d \
    LOGNAME=s4d

USER 10001
WORKDIR /work
CMD ["s4d", "doctor"]
