"""The official OpenAI client against one node: list, chat, stream with usage, errors.

usage: openai_client.py BASE_URL KEY MODEL...
"""

import sys

import openai

base_url, key, *models = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=20)

listed = [model.id for model in client.models.list()]
for model in models:
    assert model in listed, f"{model} is not among {listed}"
    assert client.models.retrieve(model).id == model

    said = f"hello {model}, naïve 你好 🚀"
    messages = [{"role": "user", "content": said}]
    answer = client.chat.completions.create(model=model, messages=messages)
    text = answer.choices[0].message.content
    assert said in text, text
    assert answer.choices[0].finish_reason == "stop", answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage

    streamed, told, chunks = "", None, 0
    stream = client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        chunks += 1
        if chunk.choices:
            streamed += chunk.choices[0].delta.content or ""
        if chunk.usage is not None:
            assert told is None and not chunk.choices, chunk
            told = chunk.usage
    assert said in streamed and chunks > 2, (chunks, streamed)
    assert told is not None and told.total_tokens > 0, told

    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        assert chunk.choices and chunk.usage is None, chunk

try:
    client.chat.completions.create(model="no-such-model", messages=messages)
    raise AssertionError("an unknown model was answered")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
try:
    openai.OpenAI(base_url=base_url, api_key="me-nobody", max_retries=0).models.list()
    raise AssertionError("an unknown key was answered")
except openai.AuthenticationError:
    pass
