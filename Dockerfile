FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pushsvc ./pushsvc
RUN python -m venv /opt/pushsvc && /opt/pushsvc/bin/pip install --no-cache-dir -c constraints.txt ".[demo]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 pushsvc
COPY --from=build /opt/pushsvc /opt/pushsvc
ENV PATH=/opt/pushsvc/bin:$PATH PYTHONUNBUFFERED=1
USER pushsvc
WORKDIR /home/pushsvc
EXPOSE 8000
CMD ["pushsvc", "serve", "pushsvc.demo.app:service", "--host", "0.0.0.0", "--port", "8000"]
