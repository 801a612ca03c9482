# edgec, and what it needs to build for every target and to check what it built: cross compilers (zig is among edgec's
# own packages), emulators of Arm boards and microcontrollers, and an ssh client for boards.
#
#   docker build -f docker/edgec.Dockerfile -t edgec .
#   docker run --rm -v "$PWD:/models" edgec build --target rpi4 model.onnx
#   docker run --rm -v "$PWD:/models" -v ~/.ssh:/home/edgec/.ssh:ro edgec verify model-rpi4 --device ssh://pi@board
#
# TORCH_INDEX names an index with torch's CPU build, which is a tenth of the size. Where packages come through a proxy
# with a certificate of its own: --secret id=pip,src=/etc/pip.conf --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
FROM debian:12.9-slim AS built
ARG TORCH_INDEX=""
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/edgec
COPY pyproject.toml README.md LICENSE /source/
COPY edgec /source/edgec
COPY targets /source/targets
COPY kernels /source/kernels
COPY docker/constraints.txt /source/docker/constraints.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    s=/run/secrets; [ ! -f $s/pip ] || export PIP_CONFIG_FILE=$s/pip; [ ! -f $s/ca ] || export PIP_CERT=$s/ca; \
    /opt/edgec/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /source/docker/constraints.txt torch \
 && /opt/edgec/bin/pip install -c /source/docker/constraints.txt "/source[images]"

FROM debian:12.9-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends openssh-client python3 qemu-system-arm qemu-user \
 && rm -rf /var/lib/apt/lists/*
COPY --from=built /opt/edgec /opt/edgec
RUN ln -s /opt/edgec/bin/edgec /usr/local/bin/edgec && useradd --create-home edgec
USER edgec
WORKDIR /models
RUN edgec targets && edgec doctor
ENTRYPOINT ["edgec"]
