# The engine of one bundle, in NVIDIA's container for its JetPack. It is built at the first start, on the board, and
# kept in the volume /engines; a container of another JetPack, or another GPU, builds its own.
#
#   edgec build --target jetson-orin-nano --jetpack 6.2 model.onnx
#   docker build -f docker/jetson.Dockerfile \
#     --build-arg REGISTRY=<host>/ --build-arg BUNDLE=model-jetson-orin-nano -t model .        # on the board
#   docker run --rm --runtime nvidia -v engines:/engines model                        # builds it, then times it
#   docker run --rm --runtime nvidia -v engines:/engines --entrypoint python3 model /engine/build.py --folder /engines
#
# REGISTRY: where NVIDIA keeps its containers. IMAGE: `edgec targets jetson-orin-nano` lists the container of each JetPack;
# the host's must be of the same release.
ARG REGISTRY=""
ARG IMAGE=nvidia/l4t-tensorrt:r10.3.0-devel
FROM ${REGISTRY}${IMAGE}
ARG BUNDLE
COPY ${BUNDLE}/engine /engine
RUN python3 /engine/build.py --help >/dev/null && python3 /engine/run.py --help >/dev/null
VOLUME /engines
ENTRYPOINT ["python3", "/engine/run.py", "--folder", "/engines"]
CMD ["--bench", "200"]
