"""The official OpenAI client against one node: list, chat, stream with usage, embeddings, errors.

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

# Embeddings of the first model, which is the embedded one. The client asks for base64 by itself and decodes it.
texts = ["naïve 你好 🚀", "a second text"]
as_asked = client.embeddings.create(model=models[0], input=texts)
as_floats = client.embeddings.create(model=models[0], input=texts, encoding_format="float")
assert [item.index for item in as_asked.data] == [0, 1], as_asked
for one, other in zip(as_asked.data, as_floats.data):
    assert len(one.embedding) == 256 and one.embedding == other.embedding
    assert abs(sum(entry * entry for entry in one.embedding) - 1) < 1e-6
assert as_asked.usage.prompt_tokens == as_asked.usage.total_tokens > 0, as_asked.usage
short = client.embeddings.create(model=models[0], input=[1, 2, 3], dimensions=16)
assert len(short.data) == 1 and len(short.data[0].embedding) == 16
try:
    client.embeddings.create(model=models[0], input=[])
    raise AssertionError("nothing was embedded")
except openai.BadRequestError as error:
    assert error.param == "input", error

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
