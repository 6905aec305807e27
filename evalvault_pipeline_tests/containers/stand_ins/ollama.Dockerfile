# What docker-compose.yaml and deploy/pull_models.sh ask of the image ollama/ollama; it answers as the tests' double does.
ARG IMAGE
FROM ${IMAGE}
USER 0:0
COPY doubles /opt/ollama/evalvault_pipeline_tests/doubles
RUN touch /opt/ollama/evalvault_pipeline_tests/__init__.py \
    && sed -i 's/TCPSite(runner, "127.0.0.1"/TCPSite(runner, "0.0.0.0"/' /opt/ollama/evalvault_pipeline_tests/doubles/serving.py
COPY containers/stand_ins/ollama.py /usr/local/bin/ollama
RUN chmod 755 /usr/local/bin/ollama
ENV PYTHONPATH=/opt/ollama OLLAMA_HOST=0.0.0.0:11434
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/ollama"]
CMD ["serve"]
