# Every part of clickwell: workers, sinks, the eraser, the API; configured by CLICKWELL_* variables alone.
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY . .
# The tested versions, as constraints: hashes cannot be demanded of the project itself.
# The environment has no pip of its own, and no tests of the libraries: nothing in a container installs anything.
RUN sed -nE 's/^([A-Za-z0-9._-]+==.*[^ \\]) *\\$/\1/p' requirements.txt > /constraints.txt \
 && python -m venv --without-pip /opt/clickwell \
 && pip --python /opt/clickwell/bin/python install --no-cache-dir --disable-pip-version-check -c /constraints.txt \
    '.[stream,api,privacy,otel]' \
 && find /opt/clickwell -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf /opt/clickwell/lib/python3.12/site-packages/pyarrow/include

FROM python:3.12.12-slim-bookworm
COPY --from=build /opt/clickwell /opt/clickwell
ENV PATH=/opt/clickwell/bin:$PATH PYTHONUNBUFFERED=1
# A volume that is mounted on an empty folder of the image takes over its owner.
RUN useradd --system --uid 10001 --create-home clickwell \
 && install -d -o clickwell /home/clickwell/lake /home/clickwell/s3 /home/clickwell/.clickwell
USER 10001
WORKDIR /home/clickwell
EXPOSE 8080 9464
ENTRYPOINT ["clickwell"]
CMD ["worker"]
