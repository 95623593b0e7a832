# The worker, the sink and every other command of the `stream` and `analytics` extras; configured by CLICKWELL_* variables alone.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
# The tested versions, as constraints: hashes cannot be demanded of the project itself.
RUN sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+).*/\1/p' requirements.txt > /constraints.txt \
 && python -m venv /opt/clickwell \
 && /opt/clickwell/bin/pip install --no-cache-dir --disable-pip-version-check -c /constraints.txt '.[stream,analytics]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/clickwell /opt/clickwell
ENV PATH=/opt/clickwell/bin:$PATH PYTHONUNBUFFERED=1
# A volume that is mounted on an empty folder of the image takes over its owner.
RUN useradd --system --uid 10001 --create-home clickwell && install -d -o clickwell /home/clickwell/lake /home/clickwell/.clickwell
USER 10001
WORKDIR /home/clickwell
ENTRYPOINT ["clickwell"]
CMD ["worker"]
