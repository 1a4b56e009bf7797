// The openai package of npm, through chats.
import OpenAI from "openai";

import {
  base, description, drive, greeting, key, model, parameters, person, refusal, snow, story, tool,
  weather,
} from "./drive.mjs";

const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const says = (content) => [{ role: "user", content }];
const tools = [{ type: "function", function: { name: tool, parameters, strict: true } }];

await drive({
  async text() {
    const answer = await client.chat.completions.create({ model, messages: says(greeting) });
    return { text: answer.choices[0].message.content, usage: answer.usage.total_tokens };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      model, messages: says(greeting), stream: true, stream_options: { include_usage: true },
    });
    let text = "", parts = 0, usage;
    for await (const chunk of stream) {
      const content = chunk.choices[0]?.delta?.content;
      if (content) parts++, (text += content);
      usage = chunk.usage?.total_tokens ?? usage;
    }
    return { text, parts, usage };
  },

  async tools() {
    let call;
    const runner = client.chat.completions.runTools({
      model,
      messages: says(weather),
      tools: [
        {
          type: "function",
          function: {
            name: tool,
            parameters,
            parse: JSON.parse,
            function: (sent) => ((call = { name: tool, arguments: sent }), snow),
          },
        },
      ],
    });
    return { text: await runner.finalContent(), call };
  },

  async streamedTools() {
    const messages = says(weather);
    const first = client.chat.completions.stream({ model, messages, tools });
    const { message } = (await first.finalChatCompletion()).choices[0];
    const [{ id, function: called }] = message.tool_calls;
    messages.push(message, { role: "tool", tool_call_id: id, content: snow });
    const second = client.chat.completions.stream({ model, messages, tools });
    const call = { name: called.name, arguments: JSON.parse(called.arguments) };
    return { text: await second.finalContent(), call };
  },

  async structured() {
    const answer = await client.chat.completions.parse({
      model,
      messages: says(description),
      response_format: {
        type: "json_schema",
        json_schema: { name: "person", schema: person, strict: true },
      },
    });
    return { value: JSON.parse(answer.choices[0].message.content) };
  },

  async errors() {
    const chat = (more) => client.chat.completions.create({ model, messages: says("Hi"), ...more });
    const stranger = client.withOptions({ apiKey: "wrong" });
    return {
      wrong: await refusal(() => chat({ temperature: -3 })),
      unknown: await refusal(() => chat({ model: "nobody" })),
      stranger: await refusal(() => stranger.models.list()),
    };
  },

  async cancel() {
    const stream = await client.chat.completions.create({
      model, messages: says(story), stream: true,
    });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) break; // leaving the loop aborts the request
    }
    return { cancelled: stream.controller.signal.aborted };
  },
});
