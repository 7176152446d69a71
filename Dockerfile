# syntax=docker/dockerfile:1
# Penstock alone: `docker build -t penstock .`, then see compose.yaml for how to run it.
#
# The image runs as a numeric user without a name, writes to /var/lib/penstock only, and has no use for a capability.
# Any base with glibc will do; a distroless `cc` image is the smaller one: `--build-arg BASE=…`.
ARG RUST=1.95
ARG DEBIAN=bookworm
ARG BASE=debian:${DEBIAN}-slim

FROM rust:${RUST}-slim-${DEBIAN} AS build
WORKDIR /build
COPY . .
# What was built before is kept between builds, and is not part of any layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin penstock \
    && install -D -m 0755 target/release/penstock /image/penstock \
    && install -d -m 0750 /image/data

FROM ${BASE}
COPY --from=build /image/penstock /usr/local/bin/penstock
COPY --from=build --chown=65532:65532 /image/data /var/lib/penstock
COPY config/compose.toml /etc/penstock/penstock.toml
USER 65532:65532
# Relative paths in the file (`store.path`, `log.access`) end up in the volume.
WORKDIR /var/lib/penstock
VOLUME /var/lib/penstock
EXPOSE 8080
# Asks the admin address as `serve` has it by default; PENSTOCK_ADMIN names another.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/penstock", "health"]
# Lingers and drains, 25 s together by default: give it 30 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/penstock"]
CMD ["serve", "/etc/penstock/penstock.toml"]
