# One image for every service: `heteroscale run SERVICE`.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/heteroscale && /opt/heteroscale/bin/pip install --no-cache-dir "setuptools>=77"
COPY requirements.lock pyproject.toml README.md LICENSE ./
# The lock pins the tools of the tests too; as constraints it pins only what the services need.
RUN grep -v '^setuptools==' requirements.lock > constraints.txt
COPY services services
RUN /opt/heteroscale/bin/pip install --no-cache-dir --constraint constraints.txt ".[kubernetes]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home heteroscale
COPY --from=build /opt/heteroscale /opt/heteroscale
ENV PATH=/opt/heteroscale/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HETEROSCALE_HTTP_HOST=0.0.0.0 \
    HETEROSCALE_HTTP_PORT=9100
USER 10001
EXPOSE 9100
ENTRYPOINT ["heteroscale"]
CMD ["--help"]
