# A server for one model or several: no torch, no root, no compiler.
#
#   docker build -t semseg .
#   docker run --rm -p 7860:7860 -v "$PWD/runs/street/best:/model:ro" semseg
#
# For NVIDIA GPUs; TensorRT's wheels come from NVIDIA's own index:
#
#   docker build -t semseg:gpu --build-arg EXTRA=gpu --build-arg INDEX=https://pypi.nvidia.com \
#       --build-arg BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04@sha256:14d94b039cb94bbd5da559f303b46bc4b0d5d6c24ab1a9d7b186e566ed3400dc .
#   docker run --rm --gpus all -p 7860:7860 -v "$PWD/runs/street/best:/model:ro" semseg:gpu
#
# Arguments after the image's name take the place of /model: models and options of `semseg serve`, Hub ids among them.

# Base images by digest: a tag can be moved to other content. `docker buildx imagetools inspect NAME:TAG` shows the newest.
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS build
# cpu, or gpu with INDEX.
ARG EXTRA=cpu
ARG INDEX=
# Images with CUDA come without Python.
RUN command -v python3 || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv)
WORKDIR /src
COPY pyproject.toml constraints.txt requirements-docker.txt README.md LICENSE ./
COPY semseg_app semseg_app
COPY training training
COPY export export
COPY serve serve
RUN python3 -m venv /opt/semseg
# Each file is checked by its sha256. Those are PyPI's: of what comes from another index, the versions alone are held.
RUN if [ -z "$INDEX" ]; then \
        /opt/semseg/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements-docker.txt && \
        /opt/semseg/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .; \
    else \
        sed 's/ *\\$//; /--hash=/d' constraints.txt > versions.txt && \
        /opt/semseg/bin/python -m pip install --no-cache-dir --constraint versions.txt --extra-index-url "$INDEX" \
            ".[serve,${EXTRA}]"; \
    fi

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
# http.client: with HTTP_PROXY, which Docker hands to containers, urllib would ask the proxy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python3", "-c", "import http.client; asked = http.client.HTTPConnection('127.0.0.1:7860', timeout=2); asked.request('GET', '/health/live'); exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["semseg", "serve", "--host", "0.0.0.0", "--port", "7860"]
CMD ["/model"]
