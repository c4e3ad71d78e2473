// One case of tests/contract/test_node_sdks.py: SDKS=<folder> node sdks.cjs <case> <options as JSON>; prints JSON.
"use strict";
const { createRequire } = require("node:module");
const sdks = createRequire(`${process.env.SDKS}/`);
const [name, text] = process.argv.slice(2);
const options = JSON.parse(text);
const { model, key, url } = options;
const hi = [{ role: "user", content: options.prompt ?? "hi" }];

function openai() {
  const { OpenAI } = sdks("openai");
  return new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: options.retries ?? 0 });
}

function anthropic() {
  const { Anthropic } = sdks("@anthropic-ai/sdk");
  return new Anthropic({ apiKey: key, baseURL: url, maxRetries: options.retries ?? 0 });
}

const cases = {
  async "openai.plain"() {
    const got = await openai().chat.completions.create({ model, messages: hi });
    return { text: got.choices[0].message.content, usage: got.usage };
  },
  async "openai.stream"() {
    const asked = { model, messages: hi, stream: true, stream_options: { include_usage: true } };
    const said = { text: "", usage: null };
    for await (const chunk of await openai().chat.completions.create(asked)) {
      said.text += chunk.choices[0]?.delta?.content ?? "";
      said.usage = chunk.usage ?? said.usage;
    }
    return said;
  },
  async "openai.tools"() {
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
    const stream = openai().chat.completions.stream({ model, messages: hi, tools });
    const final = await stream.finalChatCompletion();
    return final.choices[0].message.tool_calls.map((call) => call.function);
  },
  async "openai.responses"() {
    const client = openai();
    const got = await client.responses.create({ model, input: "hi" });
    const types = [];
    for await (const event of await client.responses.create({ model, input: "hi", stream: true })) types.push(event.type);
    return { text: got.output_text, usage: got.usage, first: types[0], last: types[types.length - 1] };
  },
  async "openai.embeddings"() {
    const got = await openai().embeddings.create({ model, input: ["one", "two"] });
    return { vectors: got.data.length, numbers: typeof got.data[0].embedding[0], usage: got.usage };
  },
  async "anthropic.plain"() {
    const got = await anthropic().messages.create({ model, messages: hi, max_tokens: 100 });
    return { text: got.content[0].text, usage: got.usage };
  },
  async "anthropic.stream"() {
    const stream = anthropic().messages.stream({ model, messages: hi, max_tokens: 100 });
    let text = "";
    stream.on("text", (piece) => (text += piece));
    const final = await stream.finalMessage();
    return { text, usage: final.usage };
  },
  async "anthropic.tools"() {
    const tools = [{ name: "weather", input_schema: { type: "object" } }];
    const final = await anthropic().messages.stream({ model, messages: hi, max_tokens: 100, tools }).finalMessage();
    return final.content.filter((block) => block.type === "tool_use").map(({ name, input }) => ({ name, input }));
  },
};

cases[name]().then(
  (said) => console.log(JSON.stringify({ said })),
  (error) => console.log(JSON.stringify({ error: error.constructor.name, status: error.status, body: error.error })),
);
