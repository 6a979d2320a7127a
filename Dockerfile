# A server for one model or several: no torch, no root, no compiler.
#
#   docker build -t semseg .
#   docker run --rm -p 7860:7860 -v "$PWD/runs/street/best:/model:ro" semseg
#
# For NVIDIA GPUs; TensorRT's wheels come from NVIDIA's own index:
#
#   docker build -t semseg:gpu --build-arg EXTRA=gpu --build-arg INDEX=https://pypi.nvidia.com \
#       --build-arg BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 .
#   docker run --rm --gpus all -p 7860:7860 -v "$PWD/runs/street/best:/model:ro" semseg:gpu
#
# Arguments after the image's name take the place of /model: models and options of `semseg serve`, Hub ids among them.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA=cpu
ARG INDEX=
# Images with CUDA come without Python.
RUN command -v python3 || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv)
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY semseg_app semseg_app
COPY training training
COPY export export
COPY serve serve
RUN python3 -m venv /opt/semseg
RUN /opt/semseg/bin/python -m pip install --no-cache-dir --constraint constraints.txt \
    ${INDEX:+--extra-index-url "$INDEX"} ".[serve,${EXTRA}]"

FROM ${BASE}
RUN command -v python3 || (apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*)
RUN useradd --create-home --uid 10001 semseg && mkdir /cache && chown semseg /cache
COPY --from=build /opt/semseg /opt/semseg
ENV PATH=/opt/semseg/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/cache
USER semseg
WORKDIR /home/semseg
# Models fetched from the Hub survive the container here.
VOLUME /cache
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health/live', timeout=2)"]
ENTRYPOINT ["semseg", "serve", "--host", "0.0.0.0", "--port", "7860"]
CMD ["/model"]
